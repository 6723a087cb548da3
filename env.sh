# Puts the environment of this checkout on the path of a bash or zsh shell: source env.sh
#
# Activates .venv; on top of a sourced ROS installation where there is one, else with the ROS wheels
# that .venv then holds. Then adds what was built into install/.

if [ -n "${BASH_VERSION-}" ]; then
  eval '_mvdust3r_file=${BASH_SOURCE[0]}'
elif [ -n "${ZSH_VERSION-}" ]; then
  eval '_mvdust3r_file=${(%):-%x}' # no other shell may even read this
else
  echo "env.sh: source it in bash or zsh" >&2
  return 1
fi

# The list $2 with the list $1 in front, unless it is there already.
_mvdust3r_prepend() {
  case ":$2:" in
    *":$1:"*) printf '%s' "$2" ;;
    *) printf '%s' "$1${2:+:$2}" ;;
  esac
}

_mvdust3r_env() {
  local root venv libs nounset= IFS= # the scripts sourced below split paths with spaces
  root=$(cd "$(dirname "$_mvdust3r_file")" && pwd) || return 1
  venv=$root/.venv
  if [ ! -f "$venv/bin/activate" ]; then
    echo "env.sh: $venv does not exist yet; run: make -C '$root' build" >&2
    return 1
  fi
  [ -z "${ZSH_VERSION-}" ] || emulate -L sh # the language of those scripts
  case $- in *u*) nounset=yes ;; esac
  set +u # the scripts sourced below read variables that may not be set
  . "$venv/bin/activate"
  if [ -d "$venv/share/rclpy" ]; then
    # Without this the wheels start Python a second time to set LD_LIBRARY_PATH.
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    libs=$(printf '%s:' "$venv/lib" "$venv"/lib/python3.*/site-packages/ros_*.libs)
    LD_LIBRARY_PATH=$(_mvdust3r_prepend "${libs%:}" "${LD_LIBRARY_PATH-}")
    AMENT_PREFIX_PATH=$(_mvdust3r_prepend "$venv" "${AMENT_PREFIX_PATH-}")
    CMAKE_PREFIX_PATH=$(_mvdust3r_prepend "$venv" "${CMAKE_PREFIX_PATH-}")
    export LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH
  fi
  # Discovery on this machine alone is quick and disturbs nobody; across machines: SUBNET.
  export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
  if [ -f "$root/install/local_setup.sh" ]; then
    COLCON_CURRENT_PREFIX=$root/install
    . "$root/install/local_setup.sh"
    unset COLCON_CURRENT_PREFIX
  fi
  if [ -n "$nounset" ]; then set -u; fi
}

if _mvdust3r_env; then
  unset -f _mvdust3r_env _mvdust3r_prepend
  unset _mvdust3r_file
else
  unset -f _mvdust3r_env _mvdust3r_prepend
  unset _mvdust3r_file
  return 1
fi
