"""The networks and trainers of KE, MEND and SERAC."""
