"""One real image: recipe, matrices, maps, crops, edges."""
