"""How the weights of two runs move, and against each other: everything from the inner products of their updates.

A run is T updates of n weights. Cosines, angles, principal components, Procrustes and distance correlation need the
T × T inner products alone, which are summed tensor by tensor: megabytes and minutes, whatever n is.
"""
