"""Fast paths of particular hardware, each probed before it is used."""
