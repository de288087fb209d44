"""What a plug-in author and our own tests need: contract suites and exact stand-ins."""
