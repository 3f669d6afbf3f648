"""Our attacks against other people's, on published networks and images of CIFAR-10."""
