"""What a model is: frames, clips, features, ranking, bundles and the engines that run them."""
