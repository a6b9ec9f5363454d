"""The same agents natively and on the kernel: same answers? faster? fairer?"""
