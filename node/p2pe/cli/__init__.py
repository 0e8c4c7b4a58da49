"""The command line: a client of the control API, and the commands that make and run a node.

Nothing here is imported before a command needs it: a whole command against a running node takes 150 ms at the most.
"""
