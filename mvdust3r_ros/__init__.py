# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Dense metric mapping from camera images with MV-DUSt3R+, for ROS 2."""

from pkgutil import extend_path

from mvdust3r_ros.robot_python import add_to_path

# The generated messages have the same import name. In a checkout, this folder comes first on the
# path, and they are in another one below install/: `import mvdust3r_ros.msg` searches both.
__path__ = extend_path(__path__, __name__)
add_to_path()
