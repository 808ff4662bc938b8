"""Residual beside DPO and its control on two real shifts, measured with the product.

``python -m studies.shifts.run`` trains and scores.
"""
