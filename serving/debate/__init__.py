"""Debates between speakers: questions in, transcripts out; nobody is judged here."""
