"""What is optimised: the binding of Gaussians to a head."""
