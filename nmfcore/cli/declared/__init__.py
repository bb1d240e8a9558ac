"""The commands as the command line declares them: a module for each, with its options and what its help says.

What a command does is in the module of its name beside this folder. typer belongs to the extra ``app``, so that it is
imported when the commands are declared.
"""
