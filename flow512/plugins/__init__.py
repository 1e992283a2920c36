"""What C{twistd} runs: options, and the services that they make."""
