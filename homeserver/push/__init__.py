"""Push: rule sets of users. Pushers and the rules' own API are not here yet."""
