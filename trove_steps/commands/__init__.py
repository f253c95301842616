"""The subcommands of `trove-steps`. A module has `add(commands)`, which adds its parser; heavy imports
stand in the function that runs."""
