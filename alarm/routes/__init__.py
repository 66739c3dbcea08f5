"""Routes: alarms sent by themselves to the departments concerned."""
