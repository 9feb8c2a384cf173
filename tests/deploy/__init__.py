"""The files in deploy/, and the service with the parts that stand around it: nginx, Redis, Prometheus, systemd.

make test-deploy; a part that is not installed skips its tests, and fails them where CI is set.
"""
