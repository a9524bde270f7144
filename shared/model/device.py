"""The device a model computes on, found by its name, or an error that says which there are."""

import torch

from shared.errors import Invalid


def find_device(name: str | torch.device) -> torch.device:
    """Return the device `name`.

    Raises:
        Invalid: it is the name of no device, or of one this machine (or this torch) does not have.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # a device can be known and not be there
    except (RuntimeError, AssertionError) as error:
        raise Invalid(
            f"there is no device {str(name)!r} here; there is: {', '.join(_devices())}",
            field="device",
        ) from error
    return device


def _devices() -> list[str]:
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if cuda or torch.version.cuda is not None:
        return ["cpu", *cuda]
    return ["cpu (this torch is built without CUDA)"]
