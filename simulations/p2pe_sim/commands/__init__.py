"""The subcommands of `p2pe-sim`. Each module has COMMANDS: name -> function; `main` imports only the one it needs."""
