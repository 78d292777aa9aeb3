"""Side-by-side measurements of the product, as shipped, and its peers. `make bench` runs them."""
