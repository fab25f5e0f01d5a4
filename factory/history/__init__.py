"""What was said in the playground: conversations, answers, votes and feedback, in one SQLite file."""
