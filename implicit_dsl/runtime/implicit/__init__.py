"""How an equilibrium is solved, differentiated and captured: the parts behind `Equilibrium`."""
