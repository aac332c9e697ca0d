"""The rulers for arrays that partbench did not make, one module each."""
