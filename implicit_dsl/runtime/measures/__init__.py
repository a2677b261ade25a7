"""How large weights are: measures of groups of entries, as penalties with their proximal operators."""
