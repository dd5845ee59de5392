"""What INT8 calibration is made of: ranges, what each convolution costs, what stays in higher precision."""
