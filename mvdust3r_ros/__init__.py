"""Dense metric mapping from camera images with MV-DUSt3R+, for ROS 2."""
