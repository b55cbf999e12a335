"""The verbs of the `w2s` command, one module each, imported only when the verb is used."""
