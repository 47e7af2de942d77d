"""Between warehouse and analysis: a night among the others, noise, causes, facts."""
