"""`python -m services.cloud`."""

from services.cloud.main import main

main()
