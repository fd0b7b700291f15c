"""One model through the whole course: `make capstone`."""
