"""The `tandem` command, one module per subcommand. It starts the services; it imports neither."""
