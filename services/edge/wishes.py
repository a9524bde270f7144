"""A request's parameters as the parts below take them."""

from services.edge.link import Link
from services.edge.policy import Mode, Rules
from services.edge.schemas import GenerateRequest, Parameters
from shared.decoding.sampling import SamplingParameters
from shared.errors import CloudLost, Invalid, Unfit
from shared.protocol.messages import Sampling


def require_fitting(parameters: Parameters, mode: Mode) -> None:
    """Refuse what says something of another mode only.

    Raises:
        Invalid: naming the parameter.
    """
    given = (
        ("max_disagreement", parameters.max_disagreement, "collaborative"),
        ("repair", parameters.repair, "collaborative"),
        ("verify", parameters.verify, "verified"),
    )
    for name, value, of in given:
        if value and mode != of:
            raise Invalid(
                f"parameters.{name} is {value} and the mode is {mode}; allowed: mode {of}",
                field=f"parameters.{name}",
            )


def require_cloud(rules: Rules, link: Link) -> None:
    """Refuse what needs a cloud that is lost, or that does not fit.

    Raises:
        CloudLost, Unfit: it does.
    """
    if rules.mode == "standalone":
        return
    if link.unfit is not None and (link.misfit or rules.on_cloud_loss == "error"):
        raise Unfit(link.unfit)
    if not link.usable and rules.on_cloud_loss == "error":
        raise CloudLost(
            f"mode {rules.mode} needs the cloud, which is lost ({link.last_failure})",
            reason="link",
            retry_after=max(1.0, link.seconds_to_retry),
        )


def sampling_of(parameters: Parameters, eos_ids: tuple[int, ...]) -> SamplingParameters:
    """How the request's tokens are chosen."""
    return SamplingParameters(
        temperature=parameters.temperature or 0.0,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        top_k=parameters.top_k or 0,
        min_p=parameters.min_p or 0.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        min_new_tokens=parameters.min_new_tokens,
        eos_ids=eos_ids,
    )


def on_the_wire(sampling: SamplingParameters, seed: int) -> Sampling:
    """The same as a session's opening says it."""
    return Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        min_new_tokens=sampling.min_new_tokens,
        seed=seed,
        eos_ids=sampling.eos_ids,
    )


def require_length(ids: list[int], request: GenerateRequest, longest: int) -> None:
    """Refuse a prompt that is empty, or leaves no room for its answer in a context of `longest`.

    Raises:
        Invalid: it does.
    """
    if not ids:
        raise Invalid("inputs: the prompt has no tokens", field="inputs")
    if len(ids) >= longest:
        raise Invalid(
            f"inputs: the prompt has {len(ids)} tokens; allowed: 1 to {longest - 1}",
            field="inputs",
        )
    wanted = request.parameters.max_new_tokens
    if len(ids) + wanted > longest:
        raise Invalid(
            f"parameters.max_new_tokens: {wanted} after a prompt of {len(ids)} tokens is "
            f"beyond the context of {longest}; allowed: 1 to {longest - len(ids)}",
            field="parameters.max_new_tokens",
        )
