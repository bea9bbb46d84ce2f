"""Write bundles: from a checkpoint, and in int8 from another bundle."""
