"""ROS 2 and bags: messages to datatypes and back; the nodes."""
