"""Dense metric mapping from camera images with MV-DUSt3R+, for ROS 2."""

from pkgutil import extend_path

from mvdust3r_ros.robot_python import add_to_path

# The generated messages have the same import name. In a checkout this folder comes first on the
# path and they lie in another one, below install/: `import mvdust3r_ros.msg` looks in both.
__path__ = extend_path(__path__, __name__)
add_to_path()
