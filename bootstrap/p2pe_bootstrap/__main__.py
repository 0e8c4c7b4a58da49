"""`python -m p2pe_bootstrap`."""

from p2pe_bootstrap.main import main

main()
