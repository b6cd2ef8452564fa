"""What did the user ask for? One file per command; options that several take stand once."""
