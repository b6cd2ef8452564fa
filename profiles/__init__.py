"""What does it cost there? Data sheets, measured tables, the predictor, advice without a search."""
