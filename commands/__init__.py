"""What did the user ask for? One file a command, and the schema of the run file."""
