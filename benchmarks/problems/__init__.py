"""Problems whose answers are known, for the experiments."""
