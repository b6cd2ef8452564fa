"""What next, and what is best? Objectives, proposers, the study, the archive and the Pareto front."""
