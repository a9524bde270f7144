"""`python -m services.edge`."""

from shared.runtime.stopping import leave_when_told

leave_when_told()  # what follows imports torch, which takes seconds

from services.edge.main import main  # noqa: E402

main()
