"""The almanac: a seeded closed-book world, the language it is written in, and the rows that teach it."""
