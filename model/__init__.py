"""What a model is: the ground floor that training and service stand on."""
