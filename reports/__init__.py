"""What does the user take away? Tables, a summary and a page; starts from files, evaluates nothing."""
