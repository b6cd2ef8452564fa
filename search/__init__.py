"""What next, and what is best? Objectives, samplers, the study, the archive and the Pareto front."""
