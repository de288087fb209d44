"""`python -m wsiseg`."""

from wsiseg.cli import main

main()
