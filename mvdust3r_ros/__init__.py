"""Dense metric mapping from camera images with MV-DUSt3R+, for ROS 2."""

from mvdust3r_ros.robot_python import add_to_path

add_to_path()
