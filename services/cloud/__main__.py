"""`python -m services.cloud`."""

from shared.runtime.stopping import leave_when_told

leave_when_told()  # what follows imports torch, which takes seconds

from services.cloud.main import main  # noqa: E402

main()
