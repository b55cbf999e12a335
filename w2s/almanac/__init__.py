"""The almanac: a seeded closed-book world, its language, and the rows that teach it."""
