"""The only SQL of the project: schema, migrations, store and trend queries."""
