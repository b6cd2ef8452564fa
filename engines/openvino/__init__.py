"""What OpenVINO's CPU plugin computes rightly, and its form of a graph."""
