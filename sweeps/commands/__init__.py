"""The verbs of the `w2s` command, one module each; a module is imported only when its verb is used."""
