"""Pure functions on arrays: boxes, joints, projection, chamfer, sampling, segmentation."""
